"""An HTTP server for a pipeline: concurrent requests share one running batch."""
