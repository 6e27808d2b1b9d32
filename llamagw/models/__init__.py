"""What can be known of a model without running it. Knows no configuration, and starts nothing."""
