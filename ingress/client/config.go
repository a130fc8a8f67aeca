package client

import (
	"github.com/millrace/millrace/ingress/client/greylist"
	"github.com/millrace/millrace/ingress/client/karma"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// A Config says what is asked about clients. It is copied by New. The zero Config asks nothing.
type Config struct {
	Score    *score.Scorer    // nil disables scores, and greylisting with them
	Limits   *rate.Limits     // the rates of recipients; nil disables them
	Greylist *greylist.Policy // nil disables greylisting
	Store    world.Store      // draws the rates and remembers triplets; required with Limits or Greylist
	Counts   *rate.Background // counts refused recipients, and messages for Limits; nil disables that
	Karma    *karma.Recorder  // learns from what becomes of mail; nil disables that
	Guard    *rate.Guard      // limits refused recipients without a store; nil disables that
	// Look makes the clients those of an explanation: no rate of connections is drawn, no lock on a list is taken, no
	// signal is counted, nothing is held back, and Explain tells what silent signals saw.
	Look bool
}

// Validate returns a *mail.FieldError for the first field that cannot be served, or nil.
func (c *Config) Validate() error {
	if c.Store == nil && (c.Limits != nil || c.Greylist != nil) {
		return &mail.FieldError{Field: "store", Reason: "is required with limits or a greylist"}
	}
	return nil
}

// Clients is what the clients of a node share. Its methods are safe for concurrent use.
type Clients struct{ cfg Config }

// New returns Clients, or the error of Config.Validate.
func New(cfg Config) (*Clients, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Clients{cfg}, nil
}
