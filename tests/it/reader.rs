//! Each row of the reader's table against a real server.
