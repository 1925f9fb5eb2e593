//! Places of connections: a number for all clients, of which one address never has all, and a few more for those who watch the server.
//!
//! Invariant: whatever connections a client opens, and whatever it sends on them, somebody who asks for `/health`, `/ready` or
//! `/metrics` and says so at once is answered, unless as many others do that at the same time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections beyond all others, for probes.
const SPARE: usize = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    spare: Arc<Semaphore>,
    /// Connections of each address that has any. Those of this machine are not counted: a proxy's are of many clients.
    peers: Mutex<HashMap<IpAddr, usize>>,
    /// Of one address, at most.
    share: usize,
}

/// A place; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    peer: Option<IpAddr>,
    /// Whether it is one for probes only.
    pub(crate) is_spare: bool,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// For so many connections, of which one address has three quarters at most.
    pub(crate) fn new(connections: usize) -> Arc<Self> {
        Arc::new(Self {
            all: Arc::new(Semaphore::new(connections)),
            spare: Arc::new(Semaphore::new(SPARE)),
            peers: Mutex::default(),
            share: connections - connections / 4,
        })
    }

    fn peers(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection of this address: an ordinary one, a spare one where there is none, or none.
    pub(crate) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let peer = Some(peer).filter(|peer| !peer.is_loopback());
        let place =
            |permit, peer, is_spare| Place { places: Arc::clone(self), peer, is_spare, _permit: permit };
        if self.has_share(peer)
            && let Ok(permit) = Arc::clone(&self.all).try_acquire_owned()
        {
            if let Some(peer) = peer {
                *self.peers().entry(peer).or_default() += 1;
            }
            return Some(place(permit, peer, false));
        }
        Arc::clone(&self.spare).try_acquire_owned().ok().map(|permit| place(permit, None, true))
    }

    /// Whether an address has fewer connections than it may have.
    fn has_share(&self, peer: Option<IpAddr>) -> bool {
        peer.is_none_or(|peer| self.peers().get(&peer).is_none_or(|&count| count < self.share))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(peer) = self.peer else { return };
        let mut peers = self.places.peers();
        if let Some(count) = peers.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_takes_all_and_probes_have_their_own() {
        let places = Places::new(8);
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let ordinary = |peer| places.take(peer).filter(|place| !place.is_spare);
        let mut taken: Vec<Place> = (0..6).map_while(|_| ordinary(one)).collect();
        assert!(taken.len() == 6 && ordinary(one).is_none());
        taken.extend((0..2).map_while(|_| ordinary(other)));
        assert!(taken.len() == 8 && ordinary(other).is_none());
        let spare: Vec<Place> = (0..SPARE).map_while(|_| places.take(one)).collect();
        assert!(spare.len() == SPARE && spare.iter().all(|place| place.is_spare));
        assert!(places.take(one).is_none());
        drop((taken, spare));
        assert!(places.peers().is_empty());
        let local = IpAddr::from([127, 0, 0, 1]);
        let taken: Vec<Place> = (0..8).map_while(|_| ordinary(local)).collect();
        assert_eq!(taken.len(), 8, "a proxy's connections are of many clients");
    }
}
