"""Networks that judge audio; their weights come from a path, the hub or a package."""
