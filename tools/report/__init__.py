"""Report: tables and pictures of what is in results/."""
