"""What a model costs and sees: parameters, multiply-adds, receptive fields, comparisons, the scaling search."""
