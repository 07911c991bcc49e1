"""The control plane's statements."""
