"""The health check of a container: exits 0 when the Atlas process on this port is ready, else 1.

Says why on stderr. Not by urllib: that would go through a proxy named in the environment.
"""

from __future__ import annotations

import http.client
import sys
from typing import Final

#: Shorter than the check's own, so that its reason is seen.
TIMEOUT_S: Final = 4.0
REASON_CHARS_MAX: Final = 500


def main(port: int) -> int:
    """Ask `/readyz` on this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        reason = answer.read(REASON_CHARS_MAX).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"no answer on port {port}: {error}\n")
        return 1
    finally:
        connection.close()
    sys.stderr.write(reason + "\n")
    return 0 if answer.status == http.HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
