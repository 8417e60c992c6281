"""What we build on, looked at: known vulnerabilities, licences, and an SBOM. `python -m ops.audit`, which `make audit` calls."""
