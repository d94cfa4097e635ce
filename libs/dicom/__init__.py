"""Part 10 framing, header reading, character sets, UIDs: what several services need of the DICOM file format."""
