//! One file per background job. Each is one pass over the ports; when passes run is the schedule's business (control).
//! They run on the mover (the lender on the control core), and in the simulator under a virtual clock.

pub mod cleanup;
pub mod drain;
pub mod lend;
pub mod recover;
pub mod remove;
pub mod replicate;
pub mod stale_uploads;
pub mod sync;
pub mod trim;
