"""Report: tables and figures. They pivot metric rows and draw artefacts; nothing is measured here."""
