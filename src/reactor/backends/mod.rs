//! The backends as one core reaches them: the implementation of the backend port over connections and disk threads.
//!
//! Handlers and workers call it through `Backends`; the client's side of an exchange moves bodies between its own socket
//! and a `Source` or `Sink` with the relay. Counts every call, and tells the core's `Health` who answers.

mod account;
mod calls;
mod care;
mod charge;
mod local;
mod remote;
mod sink;
mod source;
#[cfg(test)]
mod stub;
#[cfg(test)]
mod tests;

pub use sink::Sink;
pub use source::Source;

use super::core::Core;
use super::directory::Directory;
use super::disk::{self, Disk, DiskPostbox};
use super::dns::{self, DnsPostbox, Resolver};
use super::tls;
use super::upstream::connect::Target;
use super::upstream::pool::{Pool, PoolLimits};
use crate::backend::budget::Budgets;
use crate::backend::health::Health;
use crate::backend::s3::Endpoint;
use crate::backend::standing::Standing;
use crate::base::{BackendName, Failure};
use crate::config::checked::{BackendHttp, Place};
use crate::config::view::View;
use account::Account;
use local::Local;
use remote::Remote;
use rustls::ClientConfig;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

/// File calls that wait for one directory; more wait for a thread. A directory that hangs holds up no other's.
const DISK_THREADS: usize = 4;
/// File calls of one core to one directory under way at once. More are refused, as a full mailbox is.
const DISK_CALLS_MAX: usize = 1024;
const DNS_THREADS: usize = 2;

/// What all cores share of the backends.
#[derive(Clone)]
pub struct BackendParts {
    /// In the view's order.
    ways: Arc<[Way]>,
    standing: Arc<Standing>,
    budgets: Arc<Budgets>,
    dns: DnsPostbox,
}

/// How a backend is reached.
enum Way {
    Endpoint { endpoint: Box<Endpoint>, tls: Option<Arc<ClientConfig>>, http: Box<BackendHttp> },
    Directory { directory: Arc<Directory>, disk: DiskPostbox },
}

impl BackendParts {
    /// Starts the disk and resolver threads, so it is called before the reactors pin themselves. Fails when certificates
    /// cannot be read. No backend is asked yet.
    pub fn open(view: &View, standing: &Arc<Standing>, budgets: &Arc<Budgets>) -> io::Result<Self> {
        let ways = view.backends.iter().map(|backend| Way::to(&backend.place)).collect::<io::Result<_>>()?;
        Ok(Self {
            ways,
            standing: Arc::clone(standing),
            budgets: Arc::clone(budgets),
            dns: dns::start(DNS_THREADS, dns::system_lookup)?,
        })
    }
}

impl Way {
    fn to(place: &Place) -> io::Result<Self> {
        Ok(match place {
            Place::Directory(path) => {
                Self::Directory { directory: Directory::new(path), disk: disk::start(DISK_THREADS)? }
            }
            Place::Endpoint(place) => {
                let tls = place.endpoint.tls.then(|| tls::client_config(place.ca_file.as_deref())).transpose()?;
                Self::Endpoint { endpoint: Endpoint::new(place).into(), tls, http: place.http.clone().into() }
            }
        })
    }
}

/// All backends of one core.
pub struct CoreBackends {
    core: Rc<Core>,
    view: Arc<View>,
    standing: Arc<Standing>,
    reaches: Box<[Reach]>,
}

enum Reach {
    Remote(Rc<Remote>),
    Local(Rc<Local>),
}

impl CoreBackends {
    /// Only inside the core's runtime.
    pub fn open(core: &Rc<Core>, view: &Arc<View>, parts: BackendParts, health: Rc<Health>) -> io::Result<Self> {
        let resolver = Resolver::open(core, parts.dns)?;
        let patience = view.server.backend_timeout;
        core.set_budgets(Arc::clone(&parts.budgets));
        let mut reaches = Vec::with_capacity(parts.ways.len());
        for (index, way) in parts.ways.iter().enumerate() {
            let name = view.backends[index].name.as_str();
            let account = Account::new(core, &health, &parts.budgets, index, name);
            reaches.push(match way {
                Way::Directory { directory, disk } => {
                    let disk = Disk::open(core, disk.clone(), DISK_CALLS_MAX)?;
                    Reach::Local(Rc::new(Local::new(account, Arc::clone(directory), &disk, patience)))
                }
                Way::Endpoint { endpoint, tls, http } => {
                    let (ttl, timeout) = (http.dns_ttl, http.connect_timeout);
                    let target = Target::new(&endpoint.host, endpoint.port, tls.clone(), ttl, timeout)?;
                    let limits = PoolLimits {
                        idle_max: http.max_idle_conns_per_host,
                        open_max: http.max_conns_per_host,
                        idle_for: http.idle_conn_timeout,
                    };
                    let pool = Pool::new(core, &resolver, target, limits, index);
                    Reach::Remote(Rc::new(Remote::new(account, Endpoint::clone(endpoint), pool, patience)))
                }
            });
        }
        let standing = parts.standing;
        Ok(Self { core: Rc::clone(core), view: Arc::clone(view), standing, reaches: reaches.into() })
    }

    fn reach(&self, name: &BackendName) -> Result<(usize, &Reach), Failure> {
        let index = self.view.backend_index(name);
        index
            .map(|index| (index, &self.reaches[index]))
            .ok_or_else(|| Failure::backend(format!("backend {} is not configured any more", name.as_str())))
    }

    /// For calls that change what is there: only where the marker was seen to be ours.
    fn usable(&self, name: &BackendName) -> Result<&Reach, Failure> {
        let (index, reach) = self.reach(name)?;
        if self.standing.usable(index) {
            return Ok(reach);
        }
        Err(Failure::backend(format!("backend {} is not in use: its marker has not been seen", name.as_str())))
    }
}
