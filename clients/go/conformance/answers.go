package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/code"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubevend.dev/kubevend"
)

type answer map[string]any

func told(token *kubevend.Token, err error) (answer, error) {
	if err != nil {
		return nil, err
	}
	warnings := []string{}
	for _, warning := range token.Warnings {
		warnings = append(warnings, warning.GetReason())
	}
	return answer{
		"token": digest(token.Value()), "lease": token.Lease, "jti": token.JTI, "replayed": token.Replayed,
		"granted_ttl_seconds": int(token.GrantedTTL.Seconds()), "warnings": warnings,
	}, nil
}

func described(err error) answer {
	var refused *kubevend.Error
	if errors.As(err, &refused) {
		violations := []string{}
		for _, each := range refused.Violations {
			violations = append(violations, each.Field)
		}
		return answer{
			"code": codeOf(refused), "reason": refused.Reason, "message": refused.Message, "metadata": refused.Metadata,
			"violations": violations, "request_id": refused.RequestID,
		}
	}
	if answered := apierrors.APIStatus(nil); errors.As(err, &answered) {
		return answer{"code": fmt.Sprintf("HTTP_%d", answered.Status().Code), "reason": "", "message": err.Error()}
	}
	return answer{"code": "DEFECT", "reason": fmt.Sprintf("%T", err), "message": err.Error()}
}

func codeOf(refused *kubevend.Error) string {
	if refused.Local {
		return "CLIENT"
	}
	return code.Code(refused.Code).String()
}

// digest names a token without showing it.
func digest(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:8])
}
