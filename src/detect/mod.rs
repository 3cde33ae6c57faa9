//! First bytes of a connection to its protocol.
