//! What lies in a region, and the records that ports and engine exchange. Layout only: no logic.
#![no_std]
#![forbid(unsafe_code)]

mod io;

pub use io::{CsumState, Piece, RxBatch, RxFrame, TxBatch, TxFrame};
