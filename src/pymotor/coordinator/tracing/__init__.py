"""One trace for each request, by OpenTelemetry and W3C Trace Context."""
