"""What operators ask of an instance."""
