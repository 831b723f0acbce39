"""Client of the OCI distribution API (https://github.com/opencontainers/distribution-spec), the one room with httpx.

`client.RegistryRepository` is what others use, with `options.RegistryOptions`; importing this package alone imports
no httpx.

```
client      RegistryRepository: the Repository protocol, put together from
  manifests   resolve, read and write manifests
  pull        blobs: streams that survive cuts, ranges
  push        blobs: skip, mount, one PUT or chunks, resumed uploads
endpoint    one repository on a session: requests with retries and counters
  session     connections of one registry: scheme, TLS, redirects, one attempt of a request
  auth        challenges and tokens;  credentials: the Docker config and its helpers
  errors      HTTP and network failures as this package's errors;  retry: how long to go on trying
logs        what httpx logs, without secrets
web         the import of httpx
```
"""
