"""Networks: transformers over tokens, their parts, and how a CPU runs them."""
