"""Speed and memory of flowlens on generated flow logs, beside the other ways to the same result."""
