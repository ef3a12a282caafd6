package server

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
)

// listen makes a named pipe for the system, administrators, the user of this
// process and the members of the group, and nobody else.
func (s *Server) listen(name string) (net.Listener, error) {
	if !strings.HasPrefix(name, pipePrefix) {
		return nil, fmt.Errorf("give the name of a pipe, which begins with %s: %w", pipePrefix, errors.ErrUnsupported)
	}
	self, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, err
	}
	// D: the list of who may; P: nothing is inherited; GA: all; GRGW: to read and write.
	sddl := fmt.Sprintf("D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;%s)", self.User.Sid)
	if s.config.Group != "" {
		if sid, err := winio.LookupSidByName(s.config.Group); err == nil {
			sddl += fmt.Sprintf("(A;;GRGW;;;%s)", sid)
		}
	}
	l, err := winio.ListenPipe(name, &winio.PipeConfig{
		SecurityDescriptor: sddl, InputBufferSize: keepBuffer, OutputBufferSize: keepBuffer,
	})
	if errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		return nil, taken("another daemon has it already: stop it, or give another name")
	}
	return l, err
}
