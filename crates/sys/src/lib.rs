//! Every system call and kernel structure that Corelane uses, behind safe functions.

pub mod launch;
pub mod namespace;
pub mod signals;
