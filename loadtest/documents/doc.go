// Package documents is tests alone: they follow the documents as a stranger does who types what stands there. It owns
// which blocks of which pages are run, the machine that they are run on, and that a translation has the blocks of its
// original. It refuses to know what the product does: what a block prints and what a program of others received is all
// that it looks at.
//
// Each page is run on a machine of its own: a network namespace with a public address, beside it a name server, a
// program that receives mail and one that sends, and of the file system what a page writes to is empty and gone behind
// it. The commands are those of the page to the letter.
package documents
