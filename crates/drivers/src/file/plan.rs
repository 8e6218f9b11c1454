// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Plan`]: what is done with a list of frames. Which way each of them goes is [`decide`]d for all drivers alike.

use pageless_block::{Align, Decision, Pins, Reach, Route, ScatterList, Shape, Why, decide};
use pageless_mem::{Access, Fault, Online, PhysRange, Pinned};

/// What can be done with a list of frames.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The first `len` bytes can go in one operation on the frames themselves.
    Frames {
        /// At most the length of the list.
        len: u64,
        /// The one range among them whose region has no verdict yet, where the operation needs one.
        suspect: Option<PhysRange>,
        /// Which way that is.
        route: Route,
    },
    /// The list needs slots.
    Bounce(Why),
    /// There is no way.
    Refuse(Why),
}

/// What a file can do with frames: what direct I/O asks for, or that there is none and the kernel copies.
pub(super) fn reach(direct: Option<Align>) -> Reach {
    Reach {
        direct: direct.ok_or(Why::NoDirectIo),
        pins: Pins::Short,
        dma_buf: None,
        // Without direct I/O the kernel copies to and from slots too: they would only add a copy.
        bounce: direct.is_some(),
        copy: direct.is_none(),
    }
}

impl Plan {
    /// Looks at the ranges in order, up to the second whose verdict is unknown: one unknown in an operation is enough
    /// to learn from, and two could not be told apart.
    pub(super) fn of(list: &ScatterList, reach: &Reach, access: Access, online: &Online<'_>) -> Result<Plan, Fault> {
        let (mut len, mut suspect, mut route, mut open) = (0, None, Route::None, true);
        for range in list {
            let caps = online.caps(range)?;
            match decide(caps, reach, Shape::of(range, access)) {
                Decision::Bounce(why) => return Ok(Plan::Bounce(why)),
                Decision::Refuse(why) => return Ok(Plan::Refuse(why)),
                Decision::Direct if caps.short_pin == Pinned::Unknown => {
                    open &= suspect.is_none();
                    suspect = suspect.or(Some(range));
                    route = route.worst(Route::Direct);
                }
                way @ (Decision::Direct | Decision::DmaBuf | Decision::Copy(_)) => route = route.worst(way.route()),
            }
            if open {
                len += u64::from(range.len());
            }
        }
        Ok(Plan::Frames { len, suspect, route })
    }
}
