//! Questions and answers over MAVLink, on radios that lose packets, for any ground station.
pub mod clock;
pub mod dialect;
pub mod frame;
pub mod ground;
pub mod key;
pub mod pace;
mod rto;
pub mod served;
pub mod sign;
pub mod station;
pub mod transfer;
pub mod wire;
