package kubevend

import (
	"context"

	"golang.org/x/oauth2"
)

// OAuth2 gives the source as one of golang.org/x/oauth2. Each of its tokens is waited for until ctx ends, and for
// [DefaultTimeout] at most.
//
// Give it to [oauth2.Transport] as it is. [oauth2.NewClient] and [oauth2.ReuseTokenSource] keep a token until it is about to
// expire, and so notice neither a revocation nor [TokenSource.Invalidate].
func (s *TokenSource) OAuth2(ctx context.Context) oauth2.TokenSource { return oauth2Source{ctx, s} }

type oauth2Source struct {
	ctx    context.Context
	source *TokenSource
}

// Token implements [oauth2.TokenSource].
func (o oauth2Source) Token() (*oauth2.Token, error) {
	ctx, cancel := context.WithTimeout(o.ctx, DefaultTimeout)
	defer cancel()
	token, err := o.source.Token(ctx)
	if err != nil {
		return nil, err
	}
	// By this machine's clock, which is what the expiry is held against.
	return &oauth2.Token{AccessToken: token.Value(), TokenType: "Bearer", Expiry: token.arrived.Add(token.GrantedTTL)}, nil
}
