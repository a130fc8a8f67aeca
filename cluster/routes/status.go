package routes

// A Status is what a node says of its rules.
type Status struct {
	Version uint64 // in force; 0: the files of this node
	Digest  string // of the rules in force, "" while there are none
	InStep  bool   // Redis holds the same, when it was last asked
	Trouble string // why it is not in step; may be empty

	Adopted     uint64 // sets that came from Redis
	Published   uint64 // sets that came from the files of this node
	Republished uint64 // times that Redis was given back what it had lost
	Refused     uint64 // sets that Redis holds and this node cannot run, each time one was tried
	Lost        uint64 // publications that came too late, because another node was faster
	Unsaved     uint64 // times that the state folder could not be written
}

// The reasons of the Anomalies that are told.
const (
	ReasonRefused     = "shared rules cannot be used here"
	ReasonRepublished = "redis had lost the rules"
	ReasonReplaced    = "shared rules were lost and replaced"
	ReasonUnsaved     = "rules cannot be kept in the state folder"
)
