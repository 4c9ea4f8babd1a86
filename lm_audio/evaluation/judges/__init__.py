"""Networks that judge sound; their weights come by path, hub id or package name."""
