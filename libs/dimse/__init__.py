"""The DICOM network: who is let in, and the upper layer that carries associations and messages. See README.md."""
