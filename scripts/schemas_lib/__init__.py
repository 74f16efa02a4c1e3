"""Makes `schemas/` from the code's own types."""
