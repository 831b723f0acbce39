"""OCI and Docker images: references, media types, manifests, layouts and archives. Knows neither HTTP nor RAFS."""
