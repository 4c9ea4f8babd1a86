"""A service in front of a pipeline: requests of many people in one running batch."""
