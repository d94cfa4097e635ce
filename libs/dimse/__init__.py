"""The DICOM network: for now, who is let in."""
