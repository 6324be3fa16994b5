"""Feature networks, which fuse a backbone's maps of several levels; every detector may use them."""
