"""A set predictor that scales with φ: EfficientDet's backbones and BiFPN, queries from the maps, sampled attention."""
