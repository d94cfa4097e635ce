"""HL7 v2: framing, character sets, messages taken apart, and acknowledgements."""
