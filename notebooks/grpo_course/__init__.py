"""What every notebook of the course needs and no lesson teaches."""
