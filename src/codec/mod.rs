//! Bytes for spans: pure encoders and decoders of each wire, without sockets or clocks.
