"""What turns the values that a user gives into tensors that a token language model takes."""
