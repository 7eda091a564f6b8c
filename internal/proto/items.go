package proto

import "ferry/internal/packet"

// A run is what stands back to back: items that this program has made or checked itself.

// ItemLen returns the length of the packet or frame at the start of b, which we made ourselves. Only
// the rest of an item that was cut by a write fits nothing: it is whatever b has.
func ItemLen(b []byte) int {
	n := len(b)
	switch {
	case b[0]>>4 == 8 && n >= DataHeaderLen:
		n = DataLen(b)
	case b[0]>>4 == 4 && n >= ControlLen:
		n = max(packet.IPv4(b).TotalLen(), ControlLen)
	}
	return min(n, len(b))
}

// WholeItem returns where the item of run ends that byte n belongs to; n itself where one begins.
func WholeItem(run []byte, n int) int {
	end := 0
	for end < n {
		end += ItemLen(run[end:])
	}
	return end
}

// WholeItems returns the length of the items at the start of run that fit into room.
func WholeItems(run []byte, room int) int {
	done := 0
	for done < len(run) {
		n := ItemLen(run[done:])
		if done+n > room {
			break
		}
		done += n
	}
	return done
}

// CountItems returns how many items run has.
func CountItems(run []byte) (n int) {
	for len(run) > 0 {
		run = run[ItemLen(run):]
		n++
	}
	return n
}
