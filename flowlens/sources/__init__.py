"""Where bytes and rows come from. Nothing here knows what a flow tuple is."""
