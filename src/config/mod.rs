//! Configuration: as written (`raw`), as meant (`checked`), as published (`view`).

pub mod checked;
pub mod view;

pub use checked::Config;
pub use view::View;
