"""Parts for kd-offline from another package."""
