use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

/// Why this process can't have the privileges that it needs, or can't be rid of the others.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegeError {
    #[error(
        "minitunnel-helper lacks the right to change routes (CAP_NET_ADMIN): run it with sudo, and in a container with --cap-add=NET_ADMIN"
    )]
    Missing,
    #[error("privileges can't be dropped: {0}")]
    Kernel(#[from] Errno),
}

/// Whether this process has these privileges.
pub(crate) fn require(needed: CapabilitySet) -> Result<(), PrivilegeError> {
    if capabilities(None)?.permitted.contains(needed) {
        Ok(())
    } else {
        Err(PrivilegeError::Missing)
    }
}

/// Drops every privilege of this process and its children but `keep`, for good. Call it before any thread starts.
pub(crate) fn keep_only(keep: CapabilitySet) -> Result<(), PrivilegeError> {
    require(keep)?;
    // 64 bits hold every capability that there can be; the kernel answers EINVAL behind its last one.
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if keep.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // Without CAP_SETPCAP the rest can't be dropped from this set, nor be gained through it: see below.
            Ok(()) | Err(Errno::PERM) => {}
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    clear_ambient_capability_set()?;
    let sets = CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: CapabilitySet::empty(),
    };
    // So it is from the beginning under systemd, whose unit has no such system call.
    if capabilities(None)? != sets {
        set_capabilities(None, sets)?;
    }
    Ok(set_no_new_privs(true)?)
}
