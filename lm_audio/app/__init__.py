"""The web page: Make, Timeline and Library, in plain JavaScript over the public API."""
