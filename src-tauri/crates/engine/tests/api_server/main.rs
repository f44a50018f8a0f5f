//! The cluster module against the real kube-apiserver and etcd.

#[cfg(test)]
mod answers;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod pods;
#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;
#[cfg(test)]
mod trouble;
