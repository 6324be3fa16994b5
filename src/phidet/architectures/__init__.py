"""The networks, in PyTorch: blocks, backbones, feature network, heads, assembly."""
