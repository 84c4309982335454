"""Copy datasets between places, and sign them."""
