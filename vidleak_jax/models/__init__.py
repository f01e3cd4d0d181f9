"""Pure networks and layers that victims and super-resolution share."""
