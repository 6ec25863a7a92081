//! The client against a scripted server, byte by byte, and against a small one over real sockets.

mod acknowledging;
mod delivering;
mod greeting;
mod hostile;
mod publishing;
mod script;
mod splitting;
