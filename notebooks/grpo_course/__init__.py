"""What the notebooks teach, the ground under it, and the gauges that measure it."""
