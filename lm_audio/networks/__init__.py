"""Networks: transformers over tokens, their layers, and CPU kernels."""
