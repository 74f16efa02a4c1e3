"""What `scripts/bench` measures, and the processes it measures with."""
